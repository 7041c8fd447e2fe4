"""Reading photos, the store of aligned faces, and the batches that training sees."""
