"""attention: causal grouped-query attention over a key/value cache, prefill (packed, chunked) and decode."""
