;; Is made of parts that have a memory each, of a mebibyte. Refused at load where GUEST_MEMORY_BYTES is less than their sum.
(core module $part (memory (export "memory") 16))
(core instance (instantiate $part))
(core instance (instantiate $part))
(core instance (instantiate $part))
(core instance (instantiate $part))
