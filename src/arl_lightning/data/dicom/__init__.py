"""DICOM archives: finding ultrasound objects, decoding them frame by frame, and taking the patient out of them.

`sources/dicom.py` puts the parts together; docs/dicom.md is the guide for an institution.
"""
