"""Asks a gateway with litellm: whole, and as a stream.

COE_URL says where the gateway is, COE_API_KEY with which key, if it wants one.
"""

import os

import litellm

gateway = {
    # litellm strips the first part, which names the protocol; the rest is the gateway's model.
    "model": "openai/coe",
    "api_base": os.environ.get("COE_URL", "http://127.0.0.1:8000/v1"),
    "api_key": os.environ.get("COE_API_KEY", "unused"),
}
messages = [{"role": "user", "content": "What is the capital of Peru?"}]

answer = litellm.completion(messages=messages, **gateway)
print("whole:", answer.choices[0].message.content)

pieces = litellm.completion(messages=messages, stream=True, **gateway)
print("streamed:", "".join(piece.choices[0].delta.content or "" for piece in pieces))
