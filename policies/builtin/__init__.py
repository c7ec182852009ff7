"""The built-in policies, one file each; they import only `policies.api`."""
