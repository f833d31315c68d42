"""The pretraining method as a LightningModule, its schedules, options and callbacks."""
