"""The tables hold what they claim: no gaps, no doubles, nothing empty."""

from coe.zoo.tables.countries import COUNTRIES
from coe.zoo.tables.elements import ELEMENTS
from coe.zoo.tables.words import LANGUAGES, WORDS


def test_elements_number_from_1_to_118_without_a_double() -> None:
    assert [element.number for element in ELEMENTS] == list(range(1, 119))
    assert len({element.symbol for element in ELEMENTS}) == 118
    assert len({element.name for element in ELEMENTS}) == 118


def test_element_symbols_are_one_or_two_letters_and_names_lower_case() -> None:
    for element in ELEMENTS:
        assert element.symbol.isalpha()
        assert len(element.symbol) in (1, 2)
        assert element.symbol == element.symbol.capitalize()
        assert element.name.isalpha()
        assert element.name.islower()


def test_some_elements_stand_where_they_should() -> None:
    by_symbol = {element.symbol: (element.number, element.name) for element in ELEMENTS}
    assert by_symbol["Fe"] == (26, "iron")
    assert by_symbol["Ag"] == (47, "silver")
    assert by_symbol["Au"] == (79, "gold")
    assert by_symbol["U"] == (92, "uranium")


def test_countries_and_capitals_are_distinct_and_not_empty() -> None:
    assert 150 <= len(COUNTRIES) <= 195
    names = {country.name for country in COUNTRIES}
    capitals = {country.capital for country in COUNTRIES}
    assert len(names) == len(capitals) == len(COUNTRIES)
    assert not names & capitals
    for country in COUNTRIES:
        assert country.name.strip() == country.name != ""
        assert country.capital.strip() == country.capital != ""


def test_there_are_six_continents() -> None:
    continents = {country.continent for country in COUNTRIES}
    expected = {"Africa", "Asia", "Europe", "North America", "Oceania", "South America"}
    assert continents == expected


def test_words_are_distinct_and_translated_into_every_language() -> None:
    assert len(WORDS) >= 300
    assert len({word.english for word in WORDS}) == len(WORDS)
    for word in WORDS:
        for language in LANGUAGES:
            assert getattr(word, language.lower()).strip() != ""
