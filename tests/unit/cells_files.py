"""Files of the formats besides .h5ad for tests/unit/test_cells.c; called by h5ad_files.py.

The good ones hold the matrix of h5ad_files.py, with ids ENSG0 ... ENSG4 where there is room.
"""
import gzip
import io
import os
import tarfile
import zipfile

import h5py
import numpy as np

IDS = ["ENSG%d" % i for i in range(5)]


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def fixed(values):
    return np.array([v.encode() for v in values])


# ---- 10x Genomics, HDF5 --------------------------------------------------------------------------

def counts(g, matrix, cells):
    """Features x barcodes by columns is cells x genes by rows."""
    rows, cols = np.nonzero(matrix)
    g["data"] = matrix[rows, cols].astype("i4")
    g["indices"] = cols.astype("i8")
    g["indptr"] = np.concatenate([[0], np.cumsum((matrix != 0).sum(1))]).astype("i8")
    g["shape"] = np.array(matrix.shape[::-1], "i4")
    g["barcodes"] = fixed(cells)


def tenx_v2(f, genome, matrix, cells, genes):
    g = f.create_group(genome)
    counts(g, matrix, cells)
    g["genes"] = fixed(IDS)
    g["gene_names"] = fixed(genes)


def tenx_v3(f, matrix, cells, genes):
    g = f.create_group("matrix")
    counts(g, matrix, cells)
    g["features/id"] = fixed(IDS)
    g["features/name"] = fixed(genes)
    g["features/feature_type"] = fixed(["Gene Expression"] * 5)
    g["features/genome"] = fixed(["GRCh38"] * 5)
    g["features/_all_tag_keys"] = fixed(["genome"])


def hdf5(at, matrix, cells, genes):
    with h5py.File(at("tenx_v2.h5"), "w") as f:
        tenx_v2(f, "GRCh38", matrix, cells, genes)
    with h5py.File(at("tenx_v3.h5"), "w") as f:
        tenx_v3(f, matrix, cells, genes)
    with h5py.File(at("tenx_two.h5"), "w") as f:
        tenx_v2(f, "hg38", matrix, cells, genes)
        tenx_v2(f, "a_mouse", matrix + 1, cells, [g.title() for g in genes])
    with h5py.File(at("bad_tenx_shape.h5"), "w") as f:
        tenx_v3(f, matrix, cells, genes)
        f["matrix/shape"][1] = 7
    with h5py.File(at("bad_tenx_indptr.h5"), "w") as f:
        tenx_v3(f, matrix, cells, genes)
        f["matrix/indptr"][3] = 1
    with h5py.File(at("bad_mudata.h5mu"), "w") as f:
        f.create_group("mod/rna")


# ---- MEX -----------------------------------------------------------------------------------------

def market(matrix, order=None, turned=False):
    """Genes x cells, cell by cell; turned: as cells x genes."""
    cells, genes = np.nonzero(matrix)
    order = np.arange(len(cells)) if order is None else order
    rows, cols = (cells, genes) if turned else (genes, cells)
    shape = matrix.shape if turned else matrix.shape[::-1]
    out = io.StringIO()
    out.write("%%%%MatrixMarket matrix coordinate integer general\n%%\n%d %d %d\n"
              % (*shape, len(cells)))
    np.savetxt(out, np.stack([rows + 1, cols + 1, matrix[cells, genes]], 1)[order], fmt="%d")
    return out.getvalue()


def parts(matrix, cells, genes, new=True, **options):
    ids = IDS if len(genes) == 5 else genes
    features = ["%s\t%s%s" % (i, g, "\tGene Expression" if new else "")
                for i, g in zip(ids, genes)]
    return {"matrix.mtx": market(matrix, **options),
            "features.tsv" if new else "genes.tsv": "\n".join(features) + "\n",
            "barcodes.tsv": "\n".join(cells) + "\n"}


def packed(files):
    return {name + ".gz": gzip.compress(text.encode(), 6, mtime=0) for name, text in files.items()}


def folder(path, files):
    for name, data in files.items():
        write(os.path.join(path, name), data)


def zipped(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in files.items():
            z.writestr(name, data)


def tarred(path, files, mode="w"):
    with tarfile.open(path, mode) as t:
        for name, data in files.items():
            data = data if isinstance(data, bytes) else data.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))


def mex(at, matrix, cells, genes):
    old, new = parts(matrix, cells, genes, False), parts(matrix, cells, genes)
    last_first = dict(reversed(list(new.items())))
    folder(at("mex_v2"), old)
    folder(at("mex_v3"), packed(new))
    order = np.random.RandomState(0).permutation(np.count_nonzero(matrix))
    folder(at("mex_unsorted"), parts(matrix, cells, genes, order=order))
    folder(at("mex_by_cells"), parts(matrix, cells, genes, turned=True))
    zipped(at("mex.zip"), {"sub/" + k: v for k, v in packed(new).items()})
    zipped(at("mex_stored.zip"), last_first, zipfile.ZIP_STORED)
    tarred(at("mex.tar"), {"__MACOSX/._matrix.mtx": "\0\0", **last_first})
    tarred(at("mex.tar.gz"), {"a/b/" + k: v for k, v in packed(new).items()}, "w:gz")
    tarred(at("mex_geo.tar.gz"), {"GSM1_" + k: v for k, v in packed(new).items()}, "w:gz")

    folder(at("bad_mex_missing"), {k: v for k, v in new.items() if k != "barcodes.tsv"})
    folder(at("bad_mex_twice"), {**new, "b_matrix.mtx": new["matrix.mtx"]})
    head = "%%MatrixMarket matrix coordinate integer general\n"
    for name, text in {"shape": head + "7 6 0\n", "index": head + "5 6 1\n6 1 1\n",
                       "few": head + "5 6 3\n1 1 1\n", "many": head + "5 6 1\n1 1 1\n1 2 1\n",
                       "huge": head + "4000000000 4000000000 1\n4000000000 4000000000 1\n",
                       "array": head.replace("coordinate", "array") + "1\n"}.items():
        folder(at("bad_mex_" + name), {**new, "matrix.mtx": text})
    write(at("bad_alone.mtx"), new["matrix.mtx"])
    hostile(at, new)


def hostile(at, files):
    zipped(at("bad_slip.zip"), {"../" + k: v for k, v in files.items()})
    tarred(at("bad_slip.tar"), {"/etc/" + k: v for k, v in files.items()})
    with tarfile.open(at("bad_link.tar"), "w") as t:
        link = tarfile.TarInfo("matrix.mtx")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        t.addfile(link)
    zipped(at("bad_encrypted.zip"), files, zipfile.ZIP_STORED)
    with open(at("bad_encrypted.zip"), "r+b") as f:  # the flag of every header
        data = bytearray(f.read())
        for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            start = data.find(mark)
            while start >= 0:
                data[start + offset] |= 1
                start = data.find(mark, start + 4)
        f.seek(0)
        f.write(data)
    zipped(at("bad_empty.zip"), {})
    with open(at("mex.zip"), "rb") as f:
        write(at("bad_cut.zip"), f.read()[:300])
    bomb = gzip.compress(b"%" + b" " * (200 << 20), 9, mtime=0)  # a line of 200 MB
    tarred(at("bad_bomb.tar.gz"), {"matrix.mtx.gz": bomb}, "w:gz")


# ---- tables --------------------------------------------------------------------------------------

def table(matrix, rows, cols, separator=",", corner="", quote="", end="\n"):
    q = lambda s: quote + s + quote
    lines = [separator.join(([corner] if corner is not None else []) + [q(c) for c in cols])]
    lines += [separator.join([q(r)] + ["%g" % v for v in line]) for r, line in zip(rows, matrix)]
    return end.join(lines) + end


def tables(at, matrix, cells, genes):
    good = table(matrix, cells, genes)
    write(at("cells.csv"), good)
    write(at("cells.csv.gz"), gzip.compress(good.encode()[:20]) + gzip.compress(good.encode()[20:]))
    write(at("cells.tsv"), table(matrix, cells, genes, "\t", "barcode"))
    write(at("cells_quoted.csv"),
          "\ufeff" + table(matrix, cells, genes, quote='"', end="\r\n").rstrip())
    write(at("cells_semicolon.csv"), table(matrix, cells, genes, ";"))
    write(at("genes.csv"), table(matrix.T, genes, cells))
    write(at("genes_r.tsv"), table(matrix.T, genes, cells, "\t", None, '"'))
    barcodes = ["ACGTACGTACGTACGT-%d" % i for i in range(6)]
    write(at("genes_barcodes.csv"), table(matrix.T, genes, barcodes))

    lines = good.split("\n")
    swap = lambda old, new: good.replace(old, new, 1)
    write(at("bad_short_line.csv"), "\n".join(lines[:2] + [lines[2][:-2]] + lines[3:]))
    write(at("bad_word.csv"), swap("cell1,3,0", "cell1,3,many"))
    write(at("bad_first.csv"), swap(lines[1], "cell0,none" + lines[1][lines[1].index(",", 6):]))
    write(at("bad_nan.csv"), swap("cell1,3,0", "cell1,3,nan"))
    write(at("bad_hex.csv"), swap("cell1,3,0", "cell1,3,0x10"))
    write(at("bad_quote.csv"), swap("cell1", '"cell1'))
    write(at("bad_nul.csv"), swap("cell0", "cel\0"))
    write(at("bad_latin.csv"), good.encode().replace(b"cell0", b"c\xe9ll"))
    write(at("bad_no_names.csv"), table(matrix[:, 1:], ["%g" % v for v in matrix[:, 0]], genes[1:],
                                        corner=genes[0]))
    write(at("bad_one_line.csv"), lines[0] + "\n")
    whole = gzip.compress(good.encode())
    write(at("bad_cut.csv.gz"), whole[:-12])
    damaged = bytearray(whole)
    damaged[12] ^= 0xff
    write(at("bad_damaged.csv.gz"), bytes(damaged))
    write(at("bad.bz2"), b"BZh91AY&SY" + b"\0" * 100)


def make(at, matrix, cells, genes):
    hdf5(at, matrix, cells, genes)
    mex(at, matrix, cells, genes)
    tables(at, matrix, cells, genes)


def make_large(at, matrix):
    """3,000 x 1,500, as large_csr.h5ad"""
    cells, genes = ["c%d" % i for i in range(3000)], ["g%d" % i for i in range(1500)]
    folder(at("large_mex"), parts(matrix, cells, genes))
    cell, gene = np.nonzero(matrix)
    folder(at("large_mex_unsorted"), parts(matrix, cells, genes, order=np.lexsort((cell, gene))))
    whole = table(matrix.T.astype(int), genes, cells).encode()
    write(at("large.csv.gz"), gzip.compress(whole, 1))
