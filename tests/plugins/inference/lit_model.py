"""A model behind LitServe's OpenAI form, as a process: ``python lit_model.py PORT MODEL_DIRECTORY``. The server is LitServe's."""

from __future__ import annotations

import sys

import litserve


class Model(litserve.LitAPI):
    def setup(self, device):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
        self.model = AutoModelForCausalLM.from_pretrained(sys.argv[2]).eval()

    def predict(self, request, context):
        chat = [{"role": message.role, "content": message.content} for message in request.messages]
        asked = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = self.model.generate(**asked, max_new_tokens=context["max_tokens"], do_sample=context["temperature"] > 0)
        yield self.tokenizer.decode(written[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)


if __name__ == "__main__":
    server = litserve.LitServer(Model(spec=litserve.OpenAISpec()), accelerator="cpu", timeout=300)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
