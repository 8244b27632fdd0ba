"""The sections of the configuration: keys, types, help, ranges and laws. Values and their reasons stand in YAML.

A section that feeds a constructor has that constructor's argument names (a test compares them).
"""
