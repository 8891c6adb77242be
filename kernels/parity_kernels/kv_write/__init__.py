"""kv_write: new keys and values of packed rows into their slots of the cache."""
