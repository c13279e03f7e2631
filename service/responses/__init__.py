"""OpenAI's Responses API, spoken to experts that know chat completions."""
