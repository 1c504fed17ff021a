"""Framework integrations, shipped as ``agent_sdk.integrations``."""
