"""Has litellm call a tool, in a stream, too, which takes an expert that is a server.

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
numbers = {"a": {"type": "integer"}, "b": {"type": "integer"}}
add = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": numbers}},
}
messages = [{"role": "user", "content": "What is 17 + 25?"}]

answer = litellm.completion(messages=messages, tools=[add], **gateway)
called = answer.choices[0].message.tool_calls[0].function
print("called:", called.name, called.arguments)

pieces = list(litellm.completion(messages=messages, tools=[add], stream=True, **gateway))
built = litellm.stream_chunk_builder(pieces, messages=messages)
called = built.choices[0].message.tool_calls[0].function
print("streamed:", called.name, called.arguments)
