"""Who chooses: one protocol, one small file each."""
