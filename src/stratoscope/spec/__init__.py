"""What to run and what came out: manifests, digests, scenarios, records, reference logs. Pure data."""
