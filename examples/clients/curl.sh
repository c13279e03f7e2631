#!/bin/sh
# Asks a gateway with curl: who would answer, whole, and as a stream.
# COE_URL says where the gateway is, COE_API_KEY with which key, if it wants one.
set -eu
url=${COE_URL:-http://127.0.0.1:8000/v1}
key=${COE_API_KEY:-unused}

ask() {
  curl --silent --show-error --fail-with-body --no-buffer "$url/$1" \
    --header "authorization: Bearer $key" --header 'content-type: application/json' --data "$2"
  echo
}

messages='[{"role": "user", "content": "What is the capital of Peru?"}]'
ask route "{\"messages\": $messages}"
ask chat/completions "{\"model\": \"coe\", \"messages\": $messages}"
ask chat/completions "{\"model\": \"coe\", \"messages\": $messages, \"stream\": true}"
