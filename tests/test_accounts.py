"""Who is let in, as what, and for how long."""

import pytest
import sqlalchemy as sa

from backflip.accounts import OF_TEACHERS
from backflip.schema import annotator
from backflip.settings import JUDGE, PEOPLE, SCRIPTED
from backflip.store import Account, Store, StoreError
from backflip.teachers.oracle import FALLIBLE


def test_a_token_opens_its_account_until_it_is_revoked_or_replaced(store: Store) -> None:
    token = store.invite("ana", "label", quota=5)
    account = store.admitted(token)
    assert account is not None
    assert (account.name, account.role, account.quota) == ("ana", "label", 5)
    assert store.admitted(token[:-1]) is None
    again = store.invite("ana", "admin")
    assert store.admitted(token) is None
    account = store.admitted(again)
    assert account is not None
    assert (account.role, account.quota) == ("admin", None)
    store.revoke("ana")
    store.revoke("ana")
    assert store.admitted(again) is None
    (account,) = store.accounts()
    assert account.revoked_at is not None
    back = store.admitted(store.invite("ana"))
    assert back is not None
    assert back.revoked_at is None


def test_only_hashes_of_tokens_are_stored(store: Store) -> None:
    token = store.invite("ana")
    with store.transaction() as c:
        (row,) = c.execute(sa.select(annotator)).all()
    assert token not in str(tuple(row))
    assert len(token) == 43


@pytest.mark.parametrize("name", ["", " ana", "a\nb", "x" * 61, "a\0b", "a\ud800"])
def test_names_that_cannot_be_are_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match=r"cannot be a name|cannot be stored"):
        store.invite(name)


def test_hostile_names_are_only_names(store: Store) -> None:
    for name in ("'; DROP TABLE annotator; --", "<img src=x onerror=alert(1)>", "naïve 🙂"):
        account = store.admitted(store.invite(name))
        assert isinstance(account, Account)
        assert account.name == name


def test_quotas_and_names_that_do_not_exist_are_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="quota of 0"):
        store.invite("ana", quota=0)
    with pytest.raises(StoreError, match="nobody called 'ben'"):
        store.revoke("ben")
    assert store.admitted("") is None
    assert store.admitted("\ud800") is None


def test_nobody_is_invited_by_the_name_of_a_teacher_that_is_a_program(store: Store) -> None:
    from backflip.settings import JUDGE, PEOPLE, SCRIPTED
    from backflip.teachers.oracle import FALLIBLE

    for name in (JUDGE, PEOPLE, SCRIPTED, *FALLIBLE, "Oracle"):
        with pytest.raises(StoreError, match="the name of a teacher that is a program; choose another name"):
            store.invite(name)
    assert store.accounts() == []


def test_the_names_of_programs_are_those_of_all_teachers() -> None:
    assert {PEOPLE, SCRIPTED, JUDGE, *FALLIBLE} == OF_TEACHERS
