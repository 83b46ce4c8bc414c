"""Advice as data: rules with a predicate, a claim, and the change that would follow from it."""
