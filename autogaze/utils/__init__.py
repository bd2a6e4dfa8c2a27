"""What every room uses: files, checkpoints, devices, seeding, pixel statistics, progress."""
