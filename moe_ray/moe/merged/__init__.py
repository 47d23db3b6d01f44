"""Fine-tunes of one model merged behind a gate: the gate's training, the merge, and text from the result."""
