import json

import numpy as np
from tiny_shards import encode, noise_image

from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.data.stream.transform import PretrainingTransform, decode_image
from arl_lightning.data.views import MultiCrop


def test_views_are_those_of_numpys_default_generator_of_the_seed():
    crop = MultiCrop(2, 32, num_local=3, local_size=16)
    encoded = encode(noise_image(0, 60, 80))
    raw = {"__key__": "a", "jpg": encoded, "json": json.dumps({"anatomy": ANATOMIES[2]}).encode()}
    for seed in (0, 1, 2**63 - 1):
        found = PretrainingTransform(crop, AnatomyVocabulary(ANATOMIES), 1)(raw, seed)
        expected = crop(decode_image(encoded, 1), np.random.default_rng(seed))
        assert np.array_equal(found["global_views"], expected["global_views"])
        assert np.array_equal(found["local_views"], expected["local_views"])
        assert (found["anatomy"], found["seed"], found["key"]) == (2, seed, "a")
