#!/bin/sh
# Has lm-eval ask a gateway the 20 sums beside it; `pip install "lm-eval[api]"` first.
# COE_URL says where the gateway is, OPENAI_API_KEY with which key, if it wants one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
url=${COE_URL:-http://127.0.0.1:8000/v1}
export OPENAI_API_KEY="${OPENAI_API_KEY:-unused}"

cd "$here/lm_eval" # the task names its questions relative to where it is run
exec lm_eval run --model local-chat-completions --apply_chat_template \
  --model_args "model=coe,base_url=$url/chat/completions,num_concurrent=4,tokenizer_backend=None" \
  --include_path . --tasks sums "$@"
