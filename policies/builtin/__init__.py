"""The policies that ship with the product, one file each, written against `policies.api` only."""
