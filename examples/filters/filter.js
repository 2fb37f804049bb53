// filter.js PREFIX HEADER: drops records whose key begins with PREFIX, and headers named HEADER.
const fs = require("fs"), [prefix, name] = process.argv.slice(2).map((s) => Buffer.from(s)), chunk = Buffer.alloc(1 << 20);
let buf = Buffer.alloc(0), out = [], size = 0;
function fail(status, why) { console.error("filter.js: error: " + why); process.exit(status); }
function need(n) { // reads until there are n bytes
  for (let k; buf.length < n; buf = Buffer.concat([buf, chunk.subarray(0, k)]))
    if ((k = fs.readSync(0, chunk)) === 0) fail(3, "the input ended before its end frame");
}
function head(i) { // of the item at i: its major type, its argument, and where its content begins
  need(i + 1);
  const a = buf[i] & 31, n = a < 24 ? 0 : 1 << (a - 24);
  need(i + 1 + n);
  return [buf[i] >> 5, n === 0 ? a : n === 8 ? Number(buf.readBigUInt64BE(i + 1)) : buf.readUIntBE(i + 1, n), i + 1 + n];
}
function skip(i) { // where the item at i ends
  let [major, n, at] = head(i);
  if (major === 2 || major === 3) need(at += n);
  if (major > 3 && major < 7) for (n = major === 6 ? 1 : n * (major - 3); n > 0; n--) at = skip(at);
  return at;
}
const me = Buffer.from("filter.js:" + require("crypto").createHash("sha256").update(process.argv.slice(2).join("\0")).digest("hex").slice(0, 8)); // what it was told to do
function find(map, key) { // where the key of a map is, or the map's end, and whether it is there
  for (let [, n, i] = head(map); ; n--, i = skip(skip(i))) if (n === 0 || bytes(i).toString() === key) return [i, n > 0];
}
function named(end) { // the header, with our name among its filters
  const map = skip(skip(head(head(0)[2])[2])), [i, n] = find(map, "filters"), [at, there] = find(map, "content"); // behind the tag, "kbk" and 1
  if (!there || bytes(skip(at)).toString() !== "records") // in others there are records that it would not see
    fail(2, "standard input is not a stream of records: leave out --batches, or put kbk-pack -d before it");
  const to = n ? skip(skip(i)) : i, had = n ? skip(i) : map; // the array that is there, or the map gets one more
  buf[had]++; // up to 22 there were
  return Buffer.concat([buf.subarray(0, to), Buffer.from(n ? "" : "\x67filters\x81", "latin1"), Buffer.from([0x60 + me.length]), me, buf.subarray(to, end)]);
}
const bytes = (i) => buf.subarray(head(i)[2], skip(i)); // the content of the string at i
function write(b) { out.push(Buffer.from(b)); if ((size += b.length) > chunk.length) { fs.writeSync(1, Buffer.concat(out)); out = []; size = 0; } }
for (let kind = "", end; kind !== "end"; buf = buf.subarray(end)) {
  end = skip(0);
  if (buf[0] >> 5 !== 4) { write(named(end)); continue; } // the header, in its tag
  const at = [head(0)[2]]; // where each element begins
  while (at[at.length - 1] < end) at.push(skip(at[at.length - 1]));
  if ((kind = bytes(at[0]).toString()) !== "rec") { write(buf.subarray(0, end)); continue; } // kinds that it does not know, too
  if (buf[at[5]] !== 0xf6 && bytes(at[5]).subarray(0, prefix.length).equals(prefix)) continue;
  const kept = [];
  for (let i = head(at[7])[2]; i < at[8]; i = skip(i)) if (!bytes(i + 1).equals(name)) kept.push(buf.subarray(i, skip(i)));
  write(Buffer.concat([buf.subarray(0, at[7]), Buffer.from(kept.length < 24 ? [0x80 + kept.length] : [0x99, kept.length >> 8, kept.length]), ...kept, buf.subarray(at[8], end)]));
}
fs.writeSync(1, Buffer.concat(out));
