"""Images: data sets of them, decoded once into memory or streamed.

Invariant: all ways to read an image give the bits of the reference path, torchvision's `to_tensor`.
"""
