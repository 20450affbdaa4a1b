;; Its start-up code traps. Refused at load.
(func $f unreachable)
(start $f)
(func $provoked (param i32))
