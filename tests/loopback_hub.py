#!/usr/bin/env python3
"""A tiny Hugging Face Hub on loopback, standard library only, for offline tests.

    python loopback_hub.py --root DIR [--port 0] [--user tester] [--log FILE]

Prints one line `HF_ENDPOINT=http://127.0.0.1:PORT` once it listens.  Point clients at it with
    HF_ENDPOINT=http://127.0.0.1:PORT HF_TOKEN=hf_test HF_HUB_DISABLE_XET=1
(both variables must be set before `huggingface_hub` is imported: it reads them at import).

Holds model/dataset/space repositories with commits, branches, tags, pull-request refs, LFS objects and plain
files.  Not held: Xet (set HF_HUB_DISABLE_XET=1), search, discussions, gating, git itself.  Any bearer token
starting with `hf_` is accepted as the configured user.
Everything the client asks that is not known is answered 404 and logged as UNKNOWN, so a new client
version shows what it needs.
"""

import argparse
import base64
import datetime
import hashlib
import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
LFS_EXT = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".msgpack", ".parquet", ".npz", ".h5")


def git_blob_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Store:
    """Content-addressed blobs plus one JSON file per repository (list of commits, each a full path->entry map)."""

    def __init__(self, root):
        self.root = Path(root)
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        (self.root / "repos").mkdir(exist_ok=True)
        self.lock = threading.RLock()

    def _f(self, kind, rid):
        return self.root / "repos" / f"{kind}--{rid.replace('/', '--')}.json"

    def load(self, kind, rid):
        f = self._f(kind, rid)
        return json.loads(f.read_text()) if f.exists() else None

    def save(self, kind, rid, repo):
        f = self._f(kind, rid)
        tmp = f.with_suffix(f".{uuid.uuid4().hex}.tmp")
        tmp.write_text(json.dumps(repo))
        tmp.replace(f)

    def put(self, data: bytes) -> str:
        sha = hashlib.sha256(data).hexdigest()
        p = self.root / "blobs" / sha
        if not p.exists():
            tmp = p.with_suffix(f".{uuid.uuid4().hex}.tmp")
            tmp.write_bytes(data)
            tmp.replace(p)
        return sha

    def blob(self, sha):
        return self.root / "blobs" / sha

    def create(self, kind, rid, private=False):
        with self.lock:
            if self.load(kind, rid):
                return False
            repo = {"id": rid, "kind": kind, "private": private, "commits": [], "heads": {}, "tags": {}, "prs": 0}
            self.save(kind, rid, repo)
            sha = self.put(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
            self.commit(kind, rid, {".gitattributes": self.entry(sha, False)}, [], "initial commit")
            return True

    def entry(self, sha, lfs):
        data = self.blob(sha).read_bytes()
        e = {"sha256": sha, "size": len(data), "lfs": lfs}
        e["oid"] = git_blob_oid(
            (f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {len(data)}\n".encode())
            if lfs
            else data
        )
        return e

    def commit(self, kind, rid, adds, deletes, message, branch="main", pr=False):
        with self.lock:
            repo = self.load(kind, rid)
            base = self.rev(repo, branch) if repo["commits"] else None
            files = dict(base["files"]) if base else {}
            if pr:
                repo["prs"] += 1
                branch = f"refs/pr/{repo['prs']}"
            for d in deletes:
                for k in [k for k in files if k == d or k.startswith(d.rstrip("/") + "/")]:
                    files.pop(k)
            files.update(adds)
            body = json.dumps([files, message, len(repo["commits"]), rid], sort_keys=True).encode()
            oid = hashlib.sha1(body).hexdigest()
            repo["commits"].append(
                {
                    "oid": oid,
                    "message": message,
                    "files": files,
                    "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                }
            )
            repo["heads"][branch] = oid
            self.save(kind, rid, repo)
            return (oid, repo["prs"]) if pr else oid

    def rev(self, repo, rev):
        rev = "main" if rev in (None, "", "HEAD") else rev.removeprefix("refs/heads/").removeprefix("refs/tags/")
        rev = repo["heads"].get(rev) or repo["tags"].get(rev) or rev
        for c in reversed(repo["commits"]):
            if c["oid"].startswith(rev) and len(rev) >= 7:
                return c
        return None


class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "loopback-hub/1"
    store: Store = None
    user = "tester"
    log_file = None

    # ---- plumbing
    def log_message(self, *a):
        pass

    def note(self, status, mark=""):
        line = f"{status} {self.command} {self.path} {mark}".rstrip()
        if self.log_file:
            with open(self.log_file, "a") as f:
                f.write(line + "\n")

    def base(self):
        return f"http://{self.headers.get('Host')}"

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            out = b""
            while True:
                n = int(self.rfile.readline().split(b";")[0], 16)
                if n == 0:
                    while self.rfile.readline().strip():
                        pass
                    return out
                out += self.rfile.read(n)
                self.rfile.readline()
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status, data=b"", ctype="application/json", headers=None, mark="", head_len=None):
        if isinstance(data, (dict, list)):
            data = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", ctype)
        self.send_header("Content-Length", str(head_len if head_len is not None else len(data)))
        self.send_header("X-Request-Id", uuid.uuid4().hex)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.note(status, mark)

    def err(self, status, code, msg):
        self.send(status, {"error": msg}, headers={"X-Error-Code": code, "X-Error-Message": msg})

    def authed(self):
        return (self.headers.get("Authorization") or "").startswith("Bearer hf_")

    def do_GET(self):
        self.route()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # ---- routes
    def route(self):
        raw = self.body()
        u = urlsplit(self.path)
        path, q = u.path, parse_qs(u.query)
        M, S = self.command, self.store

        if path == "/api/whoami-v2":
            if not self.authed():
                return self.err(401, "", "Invalid username or password.")
            return self.send(
                200,
                {
                    "type": "user",
                    "id": "u1",
                    "name": self.user,
                    "fullname": self.user,
                    "email": None,
                    "isPro": False,
                    "orgs": [],
                    "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}},
                },
            )
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create" and M == "POST":
            if not self.authed():
                return self.err(401, "", "Unauthorized")
            d = json.loads(raw)
            rid = f"{d.get('organization') or self.user}/{d['name']}"
            kind = d.get("type") or "model"
            url = f"{self.base()}/{'' if kind == 'model' else kind + 's/'}{rid}"
            if not S.create(kind, rid, bool(d.get("private")) or d.get("visibility") == "private"):
                return self.send(409, {"error": "You already created this repo", "url": url, "name": rid})
            return self.send(200, {"url": url, "name": rid, "id": uuid.uuid4().hex})
        if path == "/api/repos/delete" and M == "DELETE":
            d = json.loads(raw)
            f = S._f(d.get("type") or "model", f"{d.get('organization') or self.user}/{d['name']}")
            if not f.exists():
                return self.err(404, "RepoNotFound", "Repository not found")
            f.unlink()
            return self.send(200, {})

        m = re.match(r"^/lfs-store/([0-9a-f]{64})$", path)
        if m:
            if M == "PUT":
                sha = S.put(raw)
                if sha != m[1]:
                    return self.err(400, "", "sha256 mismatch")
                return self.send(200, b"")
            return self.send(200, {})  # verify
        m = re.match(r"^/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$", path)
        if m and M == "POST":
            d = json.loads(raw)
            objs = []
            for o in d["objects"]:
                e = {"oid": o["oid"], "size": o["size"], "authenticated": True}
                if d.get("operation", "upload") == "upload" and not S.blob(o["oid"]).exists():
                    e["actions"] = {"upload": {"href": f"{self.base()}/lfs-store/{o['oid']}", "header": {}}}
                objs.append(e)
            return self.send(200, {"transfer": "basic", "objects": objs}, ctype="application/vnd.git-lfs+json")

        m = re.match(r"^/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?$", path)
        if m:
            return self.api(TYPES[m[1]], unquote(m[2]), m[3] or "", q, raw)
        m = re.match(r"^/api/(models|datasets|spaces)$", path)
        if m:
            out = []
            for f in sorted((S.root / "repos").glob(f"{TYPES[m[1]]}--*.json")):
                r = json.loads(f.read_text())
                out.append(
                    {"id": r["id"], "modelId": r["id"], "private": r["private"], "tags": [], "downloads": 0, "likes": 0}
                )
            return self.send(200, out)

        m = re.match(r"^/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path)
        if m and M in ("GET", "HEAD"):
            return self.resolve(
                TYPES.get(m[1], "model") if m[1] else "model", unquote(m[2]), unquote(m[3]), unquote(m[4])
            )
        self.send(404, {"error": "not known to loopback hub"}, mark="UNKNOWN")

    def repo_or_404(self, kind, rid):
        repo = self.store.load(kind, rid)
        if repo is None or (repo["private"] and not self.authed()):
            self.err(404 if self.authed() else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    def info(self, repo, c, blobs=False):
        sib = []
        for p, e in sorted(c["files"].items()):
            s = {"rfilename": p}
            if blobs:
                s |= {"size": e["size"], "blobId": e["oid"]}
                if e["lfs"]:
                    s["lfs"] = {"sha256": e["sha256"], "size": e["size"], "pointerSize": 134}
            sib.append(s)
        return {
            "_id": "x",
            "id": repo["id"],
            "modelId": repo["id"],
            "author": repo["id"].split("/")[0],
            "sha": c["oid"],
            "private": repo["private"],
            "gated": False,
            "disabled": False,
            "tags": ["diffusers"],
            "downloads": 0,
            "likes": 0,
            "library_name": "diffusers",
            "lastModified": c["date"],
            "createdAt": repo["commits"][0]["date"],
            "siblings": sib,
            "spaces": [],
            "usedStorage": 0,
        }

    def tree_entry(self, p, e):
        d = {"type": "file", "path": p, "oid": e["oid"], "size": e["size"]}
        if e["lfs"]:
            d["lfs"] = {"oid": e["sha256"], "size": e["size"], "pointerSize": 134}
        return d

    def api(self, kind, rid, rest, q, raw):
        S, M = self.store, self.command
        repo = self.repo_or_404(kind, rid)
        if repo is None:
            return
        verb, _, tail = rest.partition("/")
        if rest == "" or verb == "revision":
            c = S.rev(repo, unquote(tail) if verb == "revision" else None)
            if c is None:
                return self.err(404, "RevisionNotFound", "Invalid rev id")
            return self.send(200, self.info(repo, c, "blobs" in q or q.get("blobs") == ["True"]))
        if verb == "refs":
            return self.send(
                200,
                {
                    "branches": [
                        {"name": b, "ref": f"refs/heads/{b}", "targetCommit": o}
                        for b, o in repo["heads"].items()
                        if not b.startswith("refs/pr/")
                    ],
                    "tags": [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": o} for t, o in repo["tags"].items()],
                    "converts": [],
                    "pullRequests": [
                        {"name": b, "ref": b, "targetCommit": o}
                        for b, o in repo["heads"].items()
                        if b.startswith("refs/pr/")
                    ],
                },
            )
        if verb in ("tag", "branch") and M in ("POST", "DELETE"):
            if not self.authed():
                return self.err(401, "", "Unauthorized")
            d, name = json.loads(raw or b"{}"), unquote(tail)
            with S.lock:
                repo = S.load(kind, rid)
                table = repo["tags" if verb == "tag" else "heads"]
                if M == "DELETE":
                    table.pop(name, None)
                else:
                    key, at = (d["tag"], name) if verb == "tag" else (name, d.get("startingPoint"))
                    c = S.rev(repo, at)
                    if c is None:
                        return self.err(404, "RevisionNotFound", "Invalid rev id")
                    if key in table:
                        return self.err(409, "", f"Reference already exists: {key}")
                    table[key] = c["oid"]
                S.save(kind, rid, repo)
            return self.send(200, {})
        if verb == "commits":
            return self.send(
                200,
                [
                    {
                        "id": c["oid"],
                        "title": c["message"],
                        "message": "",
                        "authors": [{"user": self.user}],
                        "date": c["date"],
                    }
                    for c in reversed(repo["commits"])
                ],
            )
        if verb == "tree":
            rev, _, sub = tail.partition("/")
            c = S.rev(repo, unquote(rev))
            if c is None:
                return self.err(404, "RevisionNotFound", "Invalid rev id")
            sub = unquote(sub).strip("/")
            recursive = (q.get("recursive") or ["false"])[0].lower() in ("1", "true")
            out, dirs = [], set()
            for p, e in sorted(c["files"].items()):
                if sub and not p.startswith(sub + "/"):
                    continue
                inner = p[len(sub) + 1 :] if sub else p
                parts = inner.split("/")
                for i in range(1, len(parts)):
                    if not recursive and i > 1:
                        break
                    dirs.add("/".join(([sub] if sub else []) + parts[:i]))
                if recursive or len(parts) == 1:
                    out.append(self.tree_entry(p, e))
            if sub and not out and not dirs:
                return self.err(404, "EntryNotFound", f'{sub} does not exist on "{rev}"')
            out += [
                {"type": "directory", "path": d, "oid": hashlib.sha1(d.encode()).hexdigest(), "size": 0}
                for d in sorted(dirs)
            ]
            return self.send(200, out)
        if verb == "paths-info" and M == "POST":
            c = S.rev(repo, unquote(tail))
            try:
                paths = json.loads(raw)["paths"]
            except Exception:
                paths = parse_qs(raw.decode()).get("paths", [])
            return self.send(200, [self.tree_entry(p, c["files"][p]) for p in paths if p in c["files"]])
        if verb == "preupload" and M == "POST":
            c = S.rev(repo, unquote(tail))
            out = []
            for f in json.loads(raw)["files"]:
                old = c["files"].get(f["path"])
                lfs = f["path"].lower().endswith(LFS_EXT) or f["size"] > 10 * 2**20
                out.append(
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if lfs else "regular",
                        "shouldIgnore": False,
                        "oid": (old["sha256"] if old["lfs"] else old["oid"]) if old else None,
                    }
                )
            return self.send(200, {"files": out})
        if verb == "commit" and M == "POST":
            if not self.authed():
                return self.err(401, "", "Unauthorized")
            adds, dels, msg = {}, [], ""
            for line in raw.decode().splitlines():
                if not line.strip():
                    continue
                o = json.loads(line)
                k, v = o["key"], o["value"]
                if k == "header":
                    msg = v.get("summary", "")
                elif k == "file":
                    data = v["content"].encode() if v.get("encoding") == "utf-8" else base64.b64decode(v["content"])
                    adds[v["path"]] = S.entry(S.put(data), False)
                elif k == "lfsFile":
                    if not S.blob(v["oid"]).exists():
                        return self.err(400, "", f"LFS object {v['oid']} was not uploaded")
                    adds[v["path"]] = S.entry(v["oid"], True)
                elif k in ("deletedFile", "deletedFolder"):
                    dels.append(v["path"])
            pre, pr = "" if kind == "model" else kind + "s/", q.get("create_pr") == ["1"]
            if S.rev(repo, unquote(tail)) is None:
                return self.err(404, "RevisionNotFound", "Invalid rev id")
            oid = S.commit(kind, rid, adds, dels, msg, unquote(tail) or "main", pr)
            extra = {}
            if pr:
                oid, n = oid
                extra["pullRequestUrl"] = f"{self.base()}/{pre}{rid}/discussions/{n}"
            return self.send(
                200,
                {
                    "success": True,
                    "commitOid": oid,
                    "commitUrl": f"{self.base()}/{pre}{rid}/commit/{oid}",
                    "hookOutput": "",
                    **extra,
                },
            )
        self.send(404, {"error": "not known to loopback hub"}, mark="UNKNOWN")

    def resolve(self, kind, rid, rev, path):
        repo = self.repo_or_404(kind, rid)
        if repo is None:
            return
        c = self.store.rev(repo, rev)
        if c is None:
            return self.err(404, "RevisionNotFound", "Invalid rev id")
        e = c["files"].get(path)
        hdr = {"X-Repo-Commit": c["oid"], "Accept-Ranges": "bytes"}
        if e is None:
            return self.send(
                404,
                {"error": "Entry not found"},
                headers={**hdr, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"},
            )
        hdr["ETag"] = f'"{e["sha256"] if e["lfs"] else e["oid"]}"'
        if e["lfs"]:
            hdr |= {"X-Linked-Etag": f'"{e["sha256"]}"', "X-Linked-Size": str(e["size"])}
        if self.command == "HEAD":
            return self.send(200, b"", "application/octet-stream", hdr, head_len=e["size"])
        data = self.store.blob(e["sha256"]).read_bytes()
        r = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
        if r:
            a, b = int(r[1]), int(r[2]) if r[2] else len(data) - 1
            hdr["Content-Range"] = f"bytes {a}-{b}/{len(data)}"
            return self.send(206, data[a : b + 1], "application/octet-stream", hdr)
        self.send(200, data, "application/octet-stream", hdr)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--root", required=True)
    ap.add_argument("--port", type=int, default=0)
    ap.add_argument("--user", default="tester")
    ap.add_argument("--log")
    a = ap.parse_args()
    H.store, H.user, H.log_file = Store(a.root), a.user, a.log
    srv = ThreadingHTTPServer(("127.0.0.1", a.port), H)
    srv.daemon_threads = True
    print(f"HF_ENDPOINT=http://127.0.0.1:{srv.server_address[1]}", flush=True)
    srv.serve_forever()


if __name__ == "__main__":
    main()
