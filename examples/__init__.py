"""Agents that record themselves, small enough to read in one sitting. They run offline."""
