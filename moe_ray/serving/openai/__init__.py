"""The protocol of OpenAI's API: request bodies become calls, deltas and generations become response bodies.

Nothing here does input or output, and nothing depends on an HTTP framework.
"""
