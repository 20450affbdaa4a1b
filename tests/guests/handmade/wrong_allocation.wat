;; Tells the host to put the batch beyond the end of its memory. The host writes nothing there: that is a trap.
(func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0xfffffff0))
(func $provoked (param i32))
