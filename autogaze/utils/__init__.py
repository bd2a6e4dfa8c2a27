"""What every room uses: files written whole, devices, seeds, pixel statistics."""
