"""moe-ray moe upcycle beside mergekit-moe: the same dense models, on the same machine."""
