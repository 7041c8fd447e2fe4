"""Sources of photos: folder trees, lists, tar shards, RecordIO files and LMDB sets, behind one small interface."""
