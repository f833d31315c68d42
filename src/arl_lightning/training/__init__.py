"""What every training shares: progress, checkpoint files, and a quiet terminal."""
