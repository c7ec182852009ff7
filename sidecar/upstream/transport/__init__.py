"""HTTP connections to upstreams."""
