"""Asks a gateway with LangChain: whole, and as a stream.

COE_URL says where the gateway is, COE_API_KEY with which key, if it wants one.
"""

import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="coe",
    base_url=os.environ.get("COE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("COE_API_KEY", "unused"),
)
question = "What is the capital of Peru?"

print("whole:", model.invoke(question).content)
print("streamed:", "".join(piece.text for piece in model.stream(question)))
