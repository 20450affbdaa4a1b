;; Asks for more memory than there is, is told that there is none, and goes on.
(func $provoked (param i32)
    (if (i32.ne (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable)))
