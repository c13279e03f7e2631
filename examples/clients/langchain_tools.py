"""Has LangChain call a tool and fill a type, which takes an expert that is a server.

COE_URL says where the gateway is, COE_API_KEY with which key, if it wants one.
"""

import os

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


class Sum(BaseModel):
    """A sum and what it is a sum of."""

    total: int
    unit: str


model = ChatOpenAI(
    model="coe",
    base_url=os.environ.get("COE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("COE_API_KEY", "unused"),
)
question = HumanMessage("How many apples are 17 apples and 25 apples?")

with_tools = model.bind_tools([add])
asked = with_tools.invoke([question])
for call in asked.tool_calls:
    print("called:", call["name"], call["args"])
results = [
    ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"]) for call in asked.tool_calls
]
print("answered:", with_tools.invoke([question, asked, *results]).content)
print("filled:", model.with_structured_output(Sum).invoke([question]))
