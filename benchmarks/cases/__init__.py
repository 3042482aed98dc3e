"""The cases, one module each: ``TITLE``, and ``prepare(url, rows)``, which gives the contenders."""
