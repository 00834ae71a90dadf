"""Files for the tests of the h5ad reader, and what h5py reads in files that are there.

    h5ad_files.py make DIR         small files, good and bad, into DIR
    h5ad_files.py facts FILE ...   one line per matrix and column, for comparison

The small good files all hold the same 6 x 5 matrix (MATRIX below) in X.
"""
import os
import sys
import zlib

import h5py
import numpy as np

import cells_files

MATRIX = np.array([[0, 2, 0, 0, 1],
                   [3, 0, 0, 0, 0],
                   [0, 0, 0, 0, 0],
                   [1, 1, 1, 1, 1],
                   [0, 0, 0, 7, 0],
                   [0, 0, 9, 0, 2]], dtype="f4")
CELLS = ["cell%d" % i for i in range(6)]
GENES = ["CD3D", "LYZ", "NKG7", "MS4A1", "PPBP"]
TEXT = h5py.string_dtype()


def tag(item, kind, version="0.2.0"):
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version


def frame(parent, name, index, columns=None):
    g = parent.create_group(name)
    tag(g, "dataframe")
    g.attrs["_index"] = "_index"
    g.attrs["column-order"] = np.array(list(columns or {}), dtype=TEXT)
    tag(g.create_dataset("_index", data=np.array(index, dtype=object), dtype=TEXT), "string-array")
    for key, value in (columns or {}).items():
        g.create_dataset(key, data=value)
    return g


def sparse(parent, name, dense, kind="csr", index="i4", dtype="f4", **options):
    """CSR, or CSC of the same matrix."""
    m = dense if kind == "csr" else dense.T
    g = parent.create_group(name)
    tag(g, kind + "_matrix", "0.1.0")
    g.attrs["shape"] = np.array(dense.shape)
    rows = [np.nonzero(r)[0] for r in m]
    flat = np.concatenate(rows) if len(rows) else np.array([], int)
    g.create_dataset("data", data=m[m != 0].astype(dtype), **options)
    g.create_dataset("indices", data=flat.astype(index), **options)
    g.create_dataset("indptr", data=np.cumsum([0] + [len(r) for r in rows]).astype(index),
                     **options)
    return g


def anndata(path, x="csr", obs=None, **options):
    f = h5py.File(path, "w")
    tag(f, "anndata", "0.1.0")
    frame(f, "obs", CELLS, obs)
    frame(f, "var", GENES)
    if x in ("csr", "csc"):
        sparse(f, "X", MATRIX, x, **options)
    elif x == "dense":
        values = MATRIX.astype(options.pop("dtype", "f4"))
        tag(f.create_dataset("X", data=values, **options), "array")
    return f


# ---- good files ----------------------------------------------------------------------------------

def good(at):
    for name, options in {
            "csr": {},
            "csr_int64": dict(index="i8", dtype="i8"),
            "csr_big_endian": dict(index=">i4", dtype=">f8"),
            "csr_uint": dict(index="u2", dtype="u1"),
            "csr_lzf": dict(compression="lzf"),
            "csr_gzip": dict(compression="gzip", shuffle=True, fletcher32=True, chunks=(3,)),
            "csc": dict(x="csc"),
            "csc_gzip": dict(x="csc", compression="gzip", chunks=(2,)),
            "dense": dict(x="dense"),
            "dense_int": dict(x="dense", dtype="i2"),
            "dense_gzip": dict(x="dense", chunks=(2, 3), compression="gzip"),
            "dense_big_endian": dict(x="dense", dtype=">f8"),
            "dense_half": dict(x="dense", dtype="f2")}.items():
        anndata(at("good_%s.h5ad" % name), **options).close()

    with anndata(at("good_untidy.h5ad"), x=None) as f:  # unsorted, repeated, stored zeros
        g = f.create_group("X")
        tag(g, "csr_matrix", "0.1.0")
        g.attrs["shape"] = [6, 5]
        g["data"] = np.array([1, 0, 1, 1, 3, 1, 1, 1, 1, 1, 4, 3, 2, 9, 5, -5], "f8")
        g["indices"] = [4, 2, 1, 1, 0, 4, 3, 2, 1, 0, 3, 3, 4, 2, 0, 0]
        g["indptr"] = [0, 4, 5, 5, 10, 12, 16]
    with anndata(at("good_empty.h5ad"), x=None) as f:
        sparse(f, "X", np.zeros((6, 5), "f4"))
    with h5py.File(at("good_no_cells.h5ad"), "w") as f:
        frame(f, "obs", [])
        frame(f, "var", GENES)
        sparse(f, "X", np.zeros((0, 5), "f4"))
    columns(at("columns.h5ad"))
    records(at("records.h5ad"))
    with anndata(at("linked_inside.h5ad"), x=None) as f:
        sparse(f, "layers/counts", MATRIX)
        f["X"] = h5py.SoftLink("/layers/counts")
    rng = np.random.RandomState(1)  # several bands of entries once turned
    big = (rng.rand(3000, 1500) < 0.6) * rng.randint(1, 9, (3000, 1500)).astype("f4")
    for kind in ("csr", "csc"):
        with h5py.File(at("large_%s.h5ad" % kind), "w") as f:
            frame(f, "obs", ["c%d" % i for i in range(3000)])
            frame(f, "var", ["g%d" % i for i in range(1500)])
            sparse(f, "X", big, kind, compression="lzf")
    with anndata(at("good_odd_column.h5ad")) as f:
        del f["var"]
        frame(f, "var", ["1", "2", "3", "4", "5"], {
            "HGNC": np.array([g.encode() for g in GENES]),
            "note": np.array([b"a", b"b", b"c", b"d", b"e"])})
    cells_files.make(at, MATRIX, CELLS, GENES)
    cells_files.make_large(at, big)


def columns(path):
    """Every kind of column there is today."""
    with anndata(path, obs={"whole": np.arange(6) - 3, "huge": np.full(6, 2**64 - 1, "u8"),
                            "single": np.array([0.1, np.nan, np.inf, 1, 2.5, -3], "f4"),
                            "double": np.array([0.1, np.nan, -np.inf, 1e300, 2.5, -3]),
                            "flag": np.array([True, False, True, True, False, False]),
                            "fixed": np.array([b"a", b"bb", b"", b"dddd", b"\xc3\xa9", b"f"]),
                            "a/b": np.arange(6)}) as f:
        obs = f["obs"]
        obs.create_dataset("text", data=np.array(["x", "", "z", "\u00e9", "x", "x"], dtype=object),
                           dtype=TEXT)
        g = obs.create_group("kind")
        tag(g, "categorical")
        g["codes"] = np.array([1, 0, -1, 1, 2, 0], "i1")
        g.create_dataset("categories", data=np.array(["B", "NK", "T"], dtype=object), dtype=TEXT)
        g = obs.create_group("numbered")
        tag(g, "categorical")
        g["codes"] = np.array([1, 0, 1, 1, 0, 0], "i8")
        g["categories"] = np.array([10, 20])
        for name, values in (("maybe", np.arange(6)), ("perhaps", np.arange(6) % 2 == 0)):
            g = obs.create_group(name)
            tag(g, "nullable-integer", "0.1.0")
            g["values"] = values
            g["mask"] = np.array([0, 1, 0, 0, 0, 1], bool)
        g = obs.create_group("words")
        tag(g, "nullable-string-array", "0.1.0")
        g.create_dataset("values", data=np.array(list("uvwxyz"), dtype=object), dtype=TEXT)
        g["mask"] = np.array([0, 0, 0, 1, 0, 0], bool)
        g = obs.create_group("nested")  # categories that are nullable strings
        tag(g, "categorical")
        g["codes"] = np.array([0, 1, 0, 1, 0, 1], "i1")
        c = g.create_group("categories")
        tag(c, "nullable-string-array", "0.1.0")
        c.create_dataset("values", data=np.array(["p", "q"], dtype=object), dtype=TEXT)
        c["mask"] = np.zeros(2, bool)


def records(path):
    """As anndata wrote before 0.7: records, raw.X, categories in uns."""
    with h5py.File(path, "w") as f:
        obs = np.zeros(6, [("index", "S8"), ("louvain", "i1"), ("n", ">i4"), ("ok", "?")])
        obs["index"] = [c.encode() for c in CELLS]
        obs["louvain"] = [0, 1, 1, -1, 0, 1]
        obs["n"] = np.arange(6) * 100000
        obs["ok"] = [True, False] * 3
        f["obs"] = obs
        var = np.zeros(5, [("index", TEXT), ("means", "f4")])
        var["index"] = GENES
        f["var"] = var
        f["raw.var"] = np.array([(g.encode(),) for g in GENES], [("index", "S8")])
        f["uns/louvain_categories"] = np.array([b"first", b"second"])
        f["X"] = MATRIX - 1
        g = sparse(f, "raw.X", MATRIX)
        for key in ("encoding-type", "encoding-version", "shape"):
            del g.attrs[key]
        g.attrs["h5sparse_format"] = b"csr"
        g.attrs["h5sparse_shape"] = [6, 5]


# ---- bad files -----------------------------------------------------------------------------------

def bad(at):
    open(at("bad_text.h5ad"), "w").write("cell,gene\n" * 100)
    open(at("bad_empty.h5ad"), "w").close()
    with h5py.File(at("bad_not_anndata.h5ad"), "w") as f:
        f["matrix/data"] = np.arange(4)

    def patched(name, **parts):
        with anndata(at("bad_%s.h5ad" % name)) as f:
            for key, value in parts.items():
                if key == "shape":
                    f["X"].attrs["shape"] = value
                    continue
                del f["X"][key]
                f["X"][key] = value

    patched("indptr_descends", indptr=[0, 2, 1, 3, 8, 9, 11])
    patched("indptr_beyond", indptr=[0, 2, 3, 3, 8, 9, 12])
    patched("indptr_middle_beyond", indptr=[0, 2, 99, 3, 8, 9, 11])
    patched("indptr_negative", indptr=[0, -2, 3, 3, 8, 9, 11])
    patched("indptr_short", indptr=[0, 2, 3])
    patched("indptr_fractions", indptr=np.array([0, 2, 3, 3, 8, 9, 11], "f8"))
    patched("index_beyond", indices=[1, 4, 0, 0, 1, 2, 3, 5, 3, 2, 4])
    patched("index_negative", indices=[1, 4, 0, 0, 1, 2, 3, -1, 3, 2, 4])
    patched("index_missing", indices=[1, 4])
    patched("data_text", data=np.array([b"a"] * 11))
    patched("data_vectors", data=np.zeros((11, 2)))
    patched("shape", shape=[6, 4])
    patched("shape_negative", shape=[6, -5])
    patched("shape_huge", shape=[2**62, 5])
    with anndata(at("bad_encoding.h5ad")) as f:
        f["X"].attrs["encoding-type"] = "coo_matrix"
    with anndata(at("bad_dense_shape.h5ad"), x=None) as f:
        f["X"] = np.zeros((5, 6))
    with anndata(at("bad_dense_cube.h5ad"), x=None) as f:
        f["X"] = np.zeros((6, 5, 2))
    with anndata(at("bad_csc_index.h5ad"), x="csc") as f:
        f["X/indices"][3] = 6
    with anndata(at("bad_csc_indptr.h5ad"), x="csc") as f:
        f["X/indptr"][2] = 11
    bad_columns(at)
    hostile(at)


def bad_columns(at):
    def obs(name, column, values):
        there = {} if values is None else {column: values}
        with anndata(at("bad_%s.h5ad" % name), obs=there) as f:
            yield f["obs"]

    for _ in obs("column_length", "x", np.arange(7)):
        pass
    for _ in obs("column_matrix", "x", np.zeros((6, 2))):
        pass
    for g in obs("column_utf8", "x", None):
        g["x"] = np.array([b"a", b"b\xff", b"c", b"d", b"e", b"f"])
    for g in obs("column_nul", "x", None):
        g["x"] = np.array([b"a", b"b\0c", b"c", b"d", b"e", b"f"])
    for g in obs("column_codes", "x", None):
        g["x/codes"] = np.array([0, 1, 2, 3, 0, 1], "i1")
        g["x/categories"] = np.array([b"a", b"b", b"c"])
    for g in obs("column_codes_below", "x", None):
        g["x/codes"] = np.array([0, 1, -2, 0, 0, 1], "i1")
        g["x/categories"] = np.array([b"a", b"b", b"c"])
    for g in obs("column_mask", "x", None):
        g["x/values"] = np.arange(6)
        g["x/mask"] = np.zeros(5, bool)
    for g in obs("column_deep", "x", None):  # categories of categories of ...
        for depth in range(6):
            g["x" + "/categories" * depth + "/codes"] = np.zeros(6, "i1")
        g["x" + "/categories" * 6] = np.array([b"a"])
    for g in obs("column_self", "x", None):  # its own categories
        g["x/codes"] = np.zeros(6, "i1")
        g["x/categories"] = g["x"]
    for g in obs("column_kind", "x", None):
        g.create_dataset("x", (6,), h5py.ref_dtype)[0] = g.ref
    with anndata(at("bad_no_index.h5ad")) as f:
        del f["obs/_index"]
    with anndata(at("bad_index_matrix.h5ad")) as f:
        del f["obs/_index"]
        f["obs/_index"] = np.zeros((6, 2))
    with anndata(at("bad_frame_in_itself.h5ad")) as f:
        del f["obs"].attrs["encoding-type"]
        for i in range(20):
            f["obs/again%d" % i] = f["obs"]


def hostile(at):
    """What a stranger could send."""
    anndata(at("target.h5ad")).close()
    with anndata(at("bad_external_link.h5ad"), x=None) as f:
        f["X"] = h5py.ExternalLink("target.h5ad", "/X")
    with anndata(at("bad_external_through_soft.h5ad"), x=None) as f:
        f["uns/there"] = h5py.ExternalLink("target.h5ad", "/")
        f["X"] = h5py.SoftLink("/uns/there/X")
    with anndata(at("bad_external_group.h5ad"), x=None) as f:
        del f["obs"]
        f["obs"] = h5py.ExternalLink("target.h5ad", "/obs")
    with anndata(at("bad_soft_loop.h5ad"), x=None) as f:
        f["X"] = h5py.SoftLink("/X")
    with anndata(at("bad_external_storage.h5ad"), x=None) as f:
        f.create_dataset("X", (6, 5), "u1", external=[("/etc/passwd", 0, 30)])
    with anndata(at("bad_virtual.h5ad"), x=None) as f:
        layout = h5py.VirtualLayout((6, 5), "f4")
        layout[:] = h5py.VirtualSource(at("good_dense.h5ad"), "X", (6, 5))
        f.create_virtual_dataset("X", layout)
    with anndata(at("bad_no_storage.h5ad"), x=None) as f:
        del f["obs/_index"]
        f.create_dataset("obs/_index", (10**12,), "S10", chunks=(10**4,), compression="gzip")
    with anndata(at("bad_no_storage_data.h5ad")) as f:
        for key in ("data", "indices"):
            del f["X"][key]
            f["X"].create_dataset(key, (10**12,), "i4", chunks=(10**4,), compression="gzip")
        f["X/indptr"][...] = [0, 0, 0, 0, 0, 0, 0]
        del f["X/indptr"]
        f["X/indptr"] = np.array([0, 10**12, 10**12, 10**12, 10**12, 10**12, 10**12])
    with anndata(at("bad_chunk.h5ad"), x=None) as f:
        f.create_dataset("X", (6, 5), "f8", maxshape=(None, None), chunks=(2**14, 2**14 - 1),
                         compression="gzip")
    with anndata(at("bad_packed_twice.h5ad"), x=None) as f:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((6, 5))
        plist.set_deflate(9)
        plist.set_filter(32000)
        space = h5py.h5s.create_simple((6, 5))
        h5py.h5d.create(f.id, b"X", h5py.h5t.NATIVE_FLOAT, space, plist)
    with anndata(at("bad_filter.h5ad"), x=None) as f:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((6, 5))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((6, 5))
        h5py.h5d.create(f.id, b"X", h5py.h5t.NATIVE_FLOAT, space, plist)
    with anndata(at("bad_wide_string.h5ad"), x=None) as f:
        f.create_dataset("obs/x", (6,), "S%d" % 2**28, chunks=(1,), compression="gzip")
    text_bomb(at("bad_text_bomb.h5ad"))


def text_bomb(path):
    """100,000 strings that are all the first one, of 1 MB: the descriptors are copied."""
    with anndata(path, x=None) as f:
        d = f.create_dataset("obs/x", data=np.array(["y" * 2**20] + ["z"] * 99999, dtype=object),
                             dtype=TEXT)
        start = d.id.get_offset()
        del f["obs/_index"]
        f.create_dataset("obs/_index", data=np.zeros(100000, "S1"))
    with open(path, "r+b") as f:
        f.seek(start)
        one = f.read(16)
        f.seek(start)
        f.write(one * 100000)


# ---- what matrices hold --------------------------------------------------------------------------

def choices(at):
    log = np.log1p(MATRIX / np.maximum(MATRIX.sum(1, keepdims=True), 1) * 1e4)

    def one(name, x=None, raw=None, layers=None, genes=None):
        with h5py.File(at("choose_%s.h5ad" % name), "w") as f:
            frame(f, "obs", CELLS)
            frame(f, "var", GENES, genes)
            if x is not None:
                f["X"] = x
            if raw is not None:
                frame(f, "raw/var", GENES)
                sparse(f, "raw/X", raw, dtype="f8")
            for key, value in (layers or {}).items():
                f["layers/" + key] = value

    scaled = MATRIX - MATRIX.mean(0)
    one("counts", x=MATRIX)
    one("layer", x=scaled, raw=log, layers={"counts": MATRIX, "other": MATRIX})
    one("raw", x=scaled, raw=MATRIX)
    one("raw_log", x=scaled, raw=log)
    one("x_after_log", x=MATRIX, raw=log)
    one("scaled", x=scaled)
    one("scaled_other", x=scaled, layers={"spliced": MATRIX, "smooth": log})
    one("cpm", x=MATRIX * 1234.5)
    one("log_cpm", x=np.log1p(MATRIX * 7e4 + 0.3))
    one("nan", x=np.where(MATRIX == 9, np.nan, MATRIX))
    one("infinite", x=np.where(MATRIX == 9, np.inf, MATRIX))
    one("zero", x=MATRIX * 0)
    one("smooth", x=np.log1p(MATRIX * np.linspace(1, 2, 5)))
    rng = np.random.RandomState(2)
    counts = rng.poisson(1.5, (6, 5)).astype("f8") + np.eye(6, 5)
    one("median", x=np.log1p(counts / counts.sum(1, keepdims=True) * 2412))
    one("genes", x=MATRIX, genes={
        "feature_name": np.array([b"CD3D", b"LYZ", b"?", b"?", b"?"]),
        "gene_ids": np.array([b"ENSG1", b"ENSG2", b"ENSG3", b"ENSG4", b"ENSG5"])})
    one("entrez", x=MATRIX, genes={
        "gene_ids": np.array([b"915", b"4069", b"4818", b"931", b"5473"]),
        "gene_name": np.array([b"CD3D", b"nan", b"None", b"", b"PPBP"])})
    with h5py.File(at("choose_raw_genes.h5ad"), "w") as f:  # raw has genes that var has not
        frame(f, "obs", CELLS)
        frame(f, "var", GENES[:3])
        f["X"] = scaled[:, :3]
        frame(f, "raw/var", GENES)
        sparse(f, "raw/X", MATRIX)
    with h5py.File(at("choose_late.h5ad"), "w") as f:  # the only negative is in the last row
        m = np.zeros((5000, 5), "f4")
        m[:, 1] = 2
        m[-1, 2] = -0.5
        frame(f, "obs", ["c%d" % i for i in range(5000)])
        frame(f, "var", GENES)
        f.create_dataset("X", data=m, chunks=(100, 5), compression="gzip")


# ---- facts ---------------------------------------------------------------------------------------

def dense_of(item, shape=None):
    if isinstance(item, h5py.Dataset):
        return item[:].astype("f8")
    shape = item.attrs["shape"] if "shape" in item.attrs else item.attrs["h5sparse_shape"]
    out = np.zeros(shape)
    indptr, indices, data = item["indptr"][:], item["indices"][:], item["data"][:]
    for row in range(shape[0]):
        s = slice(indptr[row], indptr[row + 1])
        out[row, indices[s]] = data[s]
    return out


def text_of(values):
    """As the reader gives it; None for floats, which are compared as numbers."""
    if values.dtype.kind == "f":
        return None
    if values.dtype.kind == "b":
        return ["true" if v else "false" for v in values]
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def column_of(f, path, name):
    item = f[path]
    if isinstance(item, h5py.Dataset):
        values = item[name]
        key = "uns/%s_categories" % name
        return (values, f[key][:]) if key in f and values.dtype.kind == "i" else (values, None)
    item = item[name]
    if isinstance(item, h5py.Group):
        return item["codes"][:], item["categories"][:]
    if "categories" in item.attrs:
        return item[:], f[item.attrs["categories"]][:]
    return item[:], None


def facts(path):
    with h5py.File(path, "r") as f:
        names = [n for n in ("X", "raw/X", "raw.X") if n in f]
        names += ["layers/" + n for n in f.get("layers", {})]
        for name in names:
            m = dense_of(f[name])
            r, c = np.nonzero(m)
            print("matrix|%s|%d|%d|%d|%.9g" % (name.replace("raw.X", "raw/X"), *m.shape, len(r),
                                               (m[r, c] * (r % 7 + 1) * (c % 11 + 1)).sum()))
        for name in ("obs", "var", "raw/var", "raw.var"):
            if name not in f:
                continue
            g = f[name]
            if isinstance(g, h5py.Dataset):
                columns_there = list(g.dtype.names)
            else:
                columns_there = [g.attrs["_index"]] + [n for n in g.attrs["column-order"]]
            for column in columns_there:
                values, categories = column_of(f, name, column)
                if categories is not None:
                    words = text_of(categories)
                    text = [words[i] if i >= 0 else "" for i in values]
                else:
                    text = text_of(values)
                shown = name.replace("raw.var", "raw/var")
                if text is None:
                    print("floats|%s|%s|%d|%.9g" % (shown, column, len(values), values.astype(
                        "f8").sum()))
                else:
                    crc = zlib.crc32("\n".join(text).encode())
                    print("text|%s|%s|%d|%d" % (shown, column, len(text), crc))


def main():
    if sys.argv[1] == "make":
        def at(name):
            return os.path.join(sys.argv[2], name)
        good(at)
        bad(at)
        choices(at)
    else:
        for path in sys.argv[2:]:
            facts(path)


if __name__ == "__main__":
    main()
