"""The stage file of kinds that tests make of functions: there must be one to digest."""
