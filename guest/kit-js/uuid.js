// UUIDs of version 5: the same name gives the same UUID, as rules must.

/** Returns the UUID of a name, within the namespace that another UUID is. */
export function uuid5(namespace, name) {
    const hex = namespace.replaceAll("-", "");
    if (!/^[0-9a-f]{32}$/i.test(hex)) throw new TypeError(`namespace is ${namespace}, expected a UUID`);
    const bytes = [...hex.match(/../g).map((pair) => parseInt(pair, 16)), ...utf8(name)];
    const digest = sha1(bytes).slice(0, 16);
    digest[6] = (digest[6] & 0x0f) | 0x50;
    digest[8] = (digest[8] & 0x3f) | 0x80;
    const text = digest.map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Returns the bytes of a text. QuickJS has no TextEncoder. */
export function utf8(text) {
    const escaped = encodeURIComponent(text.toWellFormed());
    return Array.from(escaped.replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16))), (char) => char.charCodeAt(0));
}

function sha1(bytes) {
    const words = new Uint32Array(((bytes.length + 8) >> 6) * 16 + 16);
    bytes.forEach((byte, i) => {
        words[i >> 2] |= byte << (24 - 8 * (i & 3));
    });
    words[bytes.length >> 2] |= 0x80 << (24 - 8 * (bytes.length & 3));
    words[words.length - 1] = bytes.length * 8;
    const state = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
    const schedule = new Uint32Array(80);
    const turn = (word, by) => (word << by) | (word >>> (32 - by));
    for (let block = 0; block < words.length; block += 16) {
        let [a, b, c, d, e] = state;
        for (let i = 0; i < 80; i++) {
            const w = schedule;
            w[i] = i < 16 ? words[block + i] : turn(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
            const [f, k] =
                i < 20 ? [(b & c) | (~b & d), 0x5a827999]
                : i < 40 ? [b ^ c ^ d, 0x6ed9eba1]
                : i < 60 ? [(b & c) | (b & d) | (c & d), 0x8f1bbcdc]
                : [b ^ c ^ d, 0xca62c1d6];
            [a, b, c, d, e] = [(turn(a, 5) + f + e + k + w[i]) | 0, a, turn(b, 30), c, d];
        }
        [a, b, c, d, e].forEach((word, i) => {
            state[i] = (state[i] + word) | 0;
        });
    }
    return state.flatMap((word) => [24, 16, 8, 0].map((shift) => (word >>> shift) & 0xff));
}
