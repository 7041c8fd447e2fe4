"""From photos to aligned faces: detection, the five-point warp, and the store with its manifest."""
