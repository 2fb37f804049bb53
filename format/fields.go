package format

// fields reads the elements of a frame one after another without allocating: for kinds of
// which a stream has many. The first error stays, and what is read behind it is empty.
type fields struct {
	kind string
	all  elements
	err  error
}

// fieldsOf begins with the element behind the kind of b, which has to be kind.
func fieldsOf(kind string, b []byte) fields {
	r := fields{kind: kind}
	if r.all, r.err = elementsOf(b); r.err != nil {
		return r
	}
	if name, ok := textOf(r.next()); r.err == nil && (!ok || string(name) != kind) {
		r.err = corrupt("not a %s frame", kind)
	}
	return r
}

// next is the next element; nil where there is none, and behind an error.
func (r *fields) next() (e []byte) {
	if r.err == nil {
		e, r.err = r.all.next()
	}
	return e
}

// text reads text. It allocates only where that is not what to has already.
func (r *fields) text(to *string) {
	if e := r.next(); r.err == nil {
		r.set(to, e)
	}
}

// optionalText reads text that the frame may end before; then it is "".
func (r *fields) optionalText(to *string) {
	switch e := r.next(); {
	case r.err != nil:
	case e == nil:
		*to = ""
	default:
		r.set(to, e)
	}
}

func (r *fields) set(to *string, e []byte) {
	s, ok := textOf(e)
	if !ok {
		r.err = corrupt("%s without a text where one is due", r.kind)
	} else if string(s) != *to {
		*to = string(s)
	}
}

// number reads an integer from least to most.
func (r *fields) number(least, most int64) (n int64) {
	e := r.next()
	if r.err != nil {
		return 0
	}
	ok := e != nil
	if ok {
		n, ok = intOf(e)
	}
	if !ok || n < least || n > most {
		r.err = corrupt("%s without a number from %d to %d where one is due", r.kind, least, most)
		return 0
	}
	return n
}

// bytes reads a byte string, which shares the frame's memory.
func (r *fields) bytes() []byte {
	e := r.next()
	if r.err != nil {
		return nil
	}
	s, ok := bytesOf(e)
	if !ok {
		r.err = corrupt("%s without bytes where they are due", r.kind)
	}
	return s
}

// rest passes over what later versions add, which has to be well-formed, and returns the
// first error of all.
func (r *fields) rest() error {
	for r.next() != nil {
	}
	return r.err
}
