"""Asks a gateway with OpenAI's own client: whole, and as a stream.

COE_URL says where the gateway is, COE_API_KEY with which key, if it wants one.
"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("COE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("COE_API_KEY", "unused"),
)
question = "What is the capital of Peru?"

raw = client.chat.completions.with_raw_response.create(
    model="coe", messages=[{"role": "user", "content": question}]
)
print(raw.headers["x-coe-expert"], "says:", raw.parse().choices[0].message.content)

stream = client.chat.completions.create(
    model="coe", messages=[{"role": "user", "content": question}], stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
