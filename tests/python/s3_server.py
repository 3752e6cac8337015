"""An S3 server on loopback for the tests: moto's, which honours If-Match and If-None-Match, with its writes one at a time, as moto looks and writes in two
steps. Prints `ready s3=http://127.0.0.1:PORT` and serves until ended; or runs the command after `--` with POLYBOLOS_TEST_S3 set, and ends with its code.

The bucket's name says how the server behaves there:
  sound      as S3
  shaky      every third PUT and every other end of an upload in parts is carried out but answered 500, every fifth request is refused with 503, every fortieth keeps
             its client waiting
  forgetful  conditions are ignored
  racy       looks at a condition and writes in two steps: of writes at the same time all find theirs met
  late       an object can be written only some seconds after that was first tried; a store's trials can at once
  closed     nobody may do anything
"""

import io
import itertools
import os
import subprocess
import sys
import threading
import time

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

BUCKETS = ("sound", "shaky", "forgetful", "racy", "late", "closed")
# Longer than clients wait for an answer.
SILENCE_S = 4.0
# So long a racy write takes between its look at the condition and its writing.
RACE_S = 0.2
# So late an object can be written: later than a lease's patience, sooner than a statement's.
LATE_S = 7.0


class Server:
    def __init__(self):
        self.first_tries = {}
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.writing = threading.Lock()
        self.requests, self.puts, self.ends = itertools.count(1), itertools.count(1), itertools.count(1)

    def tag(self, environ) -> str | None:
        """The object's, as it is now."""
        answered = {}
        look = environ | {"REQUEST_METHOD": "HEAD", "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()}
        look.pop("HTTP_IF_MATCH", None)
        with self.writing:
            list(self.moto(look, lambda _, headers, *__: answered.update({name.lower(): value for name, value in headers})))
        return answered.get("etag")

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        bucket = environ["PATH_INFO"].split("/")[1]
        put = environ["REQUEST_METHOD"] == "PUT" and "/" in environ["PATH_INFO"].strip("/")
        if bucket == "closed" and put:
            return refuse(start_response, "403 Forbidden", "AccessDenied")
        if bucket == "late" and put and "/trials/" not in environ["PATH_INFO"]:
            if time.monotonic() < self.first_tries.setdefault(environ["PATH_INFO"], time.monotonic()) + LATE_S:
                return refuse(start_response, "503 Service Unavailable", "SlowDown")
        if bucket == "forgetful":
            environ.pop("HTTP_IF_MATCH", None), environ.pop("HTTP_IF_NONE_MATCH", None)
        if bucket == "racy" and put and "HTTP_IF_MATCH" in environ and environ["HTTP_IF_MATCH"] == self.tag(environ):
            time.sleep(RACE_S)
            del environ["HTTP_IF_MATCH"]
        lost = silent = False
        if bucket == "shaky":
            number = next(self.requests)
            if number % 5 == 0:
                return refuse(start_response, "503 Service Unavailable", "SlowDown")
            silent = number % 40 == 0 or number % 41 == 0
            ends = environ["REQUEST_METHOD"] == "POST" and "uploadId=" in environ["QUERY_STRING"]
            lost = (put and next(self.puts) % 3 == 0) or (ends and next(self.ends) % 2 == 1)
        with self.writing:
            answer = list(self.moto(environ, (lambda *_: None) if lost else start_response))
        if silent:
            time.sleep(SILENCE_S)
        return refuse(start_response, "500 Internal Server Error", "InternalError") if lost else answer


def refuse(start_response, status: str, code: str):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as the test\nwants it</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


def main() -> int:
    application = Server()
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    import boto3

    endpoint = f"http://127.0.0.1:{server.server_port}"
    login = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **login)
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)
    print(f"ready s3={endpoint}", flush=True)
    if "--" in sys.argv:
        command = sys.argv[sys.argv.index("--") + 1 :]
        return subprocess.run(command, env=os.environ | {"POLYBOLOS_TEST_S3": endpoint}).returncode
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
