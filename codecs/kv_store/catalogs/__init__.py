"""Catalogs, where it is written down which block follows which, so that a store opens without reading its blocks.

A catalog is a hint beside the blocks: it can be lost, old or damaged, and is made anew from their headers. No torch here.
"""
