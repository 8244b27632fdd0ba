"""The dataclasses of conf/schema.py, by what they are about.

A section that feeds a constructor has that constructor's argument names (a test holds them equal).
"""
