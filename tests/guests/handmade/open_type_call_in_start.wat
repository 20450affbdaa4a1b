;; The same in its start-up code, which would run at load.
(type $open (sub (func)))
(type $other (func (param i32)))
(func $target (type $other))
(table $table 1 funcref)
(elem (table $table) (i32.const 0) func $target)
(func $f (call_indirect $table (type $open) (i32.const 0)))
(start $f)
(func $provoked (param i32))
