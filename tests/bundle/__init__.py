"""Tests of the bundle; `make` builds small ones for other tests too."""
