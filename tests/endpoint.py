"""A server that speaks enough of OpenAI's chat completions for tests: real sockets, answers and failures by the question."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """`answer(question, n, times)` answers a question that was asked `times` times before: a list of texts or of choices, or
    (status, headers) of a failure. `requests` holds what was asked."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests, self.lock = answer, [], threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        with self.server.lock:
            times = sum(one["body"]["messages"][-1]["content"] == question for one in self.server.requests)
            self.server.requests.append({"path": self.path, "key": self.headers.get("Authorization"), "body": body})
        found = self.server.answer(question, body.get("n", 1), times)
        if isinstance(found, tuple):
            status, headers = found
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        choices = [
            {"message": {"content": one}, "finish_reason": "stop"} if isinstance(one, str) else one for one in found
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"model": f"{body['model']}-0613", "choices": choices}).encode())

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(answer):
    with Server(answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
