"""Video files in, square tiles out: decoding, timestamps, tiling, chunks and writing.

Nothing here keeps more than a few frames or one chunk of tiles in memory, however long the video
is. Still images, tiles and plain tensors need no PyAV.
"""
