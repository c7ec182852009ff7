"""The types that a policy author or an observer author works with; the public names are exported by `policies`."""
