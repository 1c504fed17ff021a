"""The first snippet of the README: it needs no server; `agent-sdk serve` shows the run afterwards."""

import agent_sdk


@agent_sdk.track
def agent(question):
    return f"{look_up(question)}, I believe"


@agent_sdk.track(step_type="tool_call")
def look_up(question):
    return {"meaning of life": 42}[question]


print(agent("meaning of life"))
