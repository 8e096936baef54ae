"""nx-27017, quieter: normally it logs a line or more for every command, and its log would outgrow the data."""

from __future__ import annotations

import logging

from nx_27017.nx_27017 import main

if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
